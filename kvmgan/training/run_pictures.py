"""What a run draws of itself again and again, always of the same captions and noise."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from PIL import Image

from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.substitutions import Substitution, substitutions
from kvmgan.figures.attention_maps import attention_maps
from kvmgan.figures.captioned_rows import captioned_rows
from kvmgan.figures.pictures import save_png, to_pictures
from kvmgan.figures.stage_strip import stage_strip
from kvmgan.figures.tile_sheet import Section, spread, tile_sheet
from kvmgan.models.generator import Generator, GeneratorOutput
from kvmgan.pretraining.encoders import Encoders
from kvmgan.random_streams import normal_noise
from kvmgan.runs.run_folder import RunFolder
from kvmgan.training.fixed_samples import FixedSamples, encode_samples, fixed_samples, real_pictures

STRIP_ROWS = 4
SEEDS = 8
# Pictures over the training that its strip shows, spread evenly, the first and the last among them.
SHOWN = 10
# Captions that are looked through for words to put in another's place.
_LOOKED_THROUGH = 20_000


class RunPictures:
    """The captions, noises and real pictures of a run's figures; ``samples`` are those that fill the grid."""

    def __init__(
        self, dataset: TextImageDataset, encoders: Encoders, dims: tuple[int, int], *, count: int, seed: int
    ) -> None:
        """Choose and encode the captions.

        Args:
            dataset: test pictures, its word limit that of evaluation.
            dims: lengths of the noise and of the condition.
            count: captions of the grid.
            seed: of all noise.
        """
        self.samples = fixed_samples(dataset, encoders, dims, count=count, seed=seed)
        self.real = real_pictures(dataset, count)
        first = self.samples.captions[0]
        noises = normal_noise((SEEDS, sum(dims)), seed, "fixed samples", 1)
        self.seeds = encode_samples([first] * SEEDS, encoders, dataset.max_words, noises, dims)
        everything = (caption for record in dataset.records for caption in record.captions)
        self.changes = substitutions(first, itertools.islice(everything, _LOOKED_THROUGH), encoders.vocabulary)
        changed = [caption for change in self.changes for caption in change.captions().values()]
        self.changed: FixedSamples | None = None
        if changed:
            # The noise of the grid's first picture: that picture is the first of each row.
            same = torch.cat((self.samples.noise, self.samples.condition_noise), dim=1)[:1].expand(len(changed), -1)
            self.changed = encode_samples(changed, encoders, dataset.max_words, same, dims)

    @torch.no_grad()
    def save(self, generator: Generator, run: RunFolder, step: int) -> dict[str, Image.Image]:
        """Write ``step-<step>.png`` into the run's folders of figures, and the strip over the training.

        Args:
            generator: in evaluation mode.

        Returns:
            The figures by their folder's name, ``history`` being the strip.
        """
        made = self.samples.draw(generator, return_attention=True)
        last = to_pictures(made.images[-1])
        figures = {run.samples: self._grid(last), run.stages: self._stages(made)}
        if made.attention:
            maps = [own[0, : len(self.samples.texts[0])].float().cpu().numpy() for own in made.attention]
            figures[run.attention] = attention_maps(last[0], maps, self.samples.texts[0], self.samples.captions[0])
        figures[run.seeds] = self._seeds(to_pictures(self.seeds.draw(generator).images[-1]))
        if self.changed is not None:
            figures[run.words] = self._words(to_pictures(self.changed.draw(generator).images[-1]))
        for folder, figure in figures.items():
            save_png(figure, folder / f"step-{step:06d}.png")
        save_png(last[0], run.history / f"step-{step:06d}.png")
        strip = self._history(run, step)
        save_png(strip, run.history_strip)
        return {folder.name: figure for folder, figure in figures.items()} | {run.history.name: strip}

    def _grid(self, last: list[Image.Image]) -> Image.Image:
        rows = list(zip(self.real, last, strict=True))
        return captioned_rows(self.samples.captions, rows, ["real", "generated"], blocks=2)

    def _stages(self, made: GeneratorOutput) -> Image.Image:
        """Of the first captions the stages and the real picture."""
        stages = list(zip(*(to_pictures(images[:STRIP_ROWS]) for images in made.images), strict=True))
        return stage_strip(self.samples.captions[:STRIP_ROWS], stages, self.real[:STRIP_ROWS])

    def _seeds(self, pictures: list[Image.Image]) -> Image.Image:
        tiles = [(f"noise {number}", picture) for number, picture in enumerate(pictures, start=1)]
        return tile_sheet([Section(self.samples.captions[0], tiles)])

    def _words(self, pictures: list[Image.Image]) -> Image.Image:
        drawn = iter(pictures)
        return tile_sheet([_changed_section(change, drawn) for change in self.changes])

    def _history(self, run: RunFolder, step: int) -> Image.Image:
        """The first caption's picture from the first step to this one, and the real one."""
        numbered = sorted((int(path.stem.removeprefix("step-")), path) for path in run.history.glob("step-*.png"))
        # A run that goes on from an earlier step has pictures of later ones, until it writes them again.
        past = [(number, path) for number, path in numbered if number <= step]
        tiles = []
        for place in spread(len(past), SHOWN):
            number, path = past[place]
            with Image.open(path) as picture:
                tiles.append((f"step {number}", picture.convert("RGB")))
        return tile_sheet([Section(self.samples.captions[0], [*tiles, ("real", self.real[0])])], columns=SHOWN + 1)


def _changed_section(change: Substitution, drawn: Iterator[Image.Image]) -> Section:
    return Section(change.pattern, [(word, next(drawn)) for word in change.captions()])
