# kvmem with its CUDA kernels, and kvmgan, for NVIDIA GPUs.
#   docker build -t kvmgan .
#   docker run --gpus all --shm-size 2g -v "$PWD/runs:/work/runs" -v kvmgan-cache:/work/cache kvmgan train --preset birds
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04 AS build

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/kvmgan
ENV PATH=/opt/kvmgan/bin:$PATH
WORKDIR /src
COPY . .
# The kernels must be built: an image without them would be a mistake that shows only on the GPU. pip fetches the torch of
# the build by itself and installs the same one.
RUN KVMEM_CUDA=1 pip install --no-cache-dir .

# The compiler stays behind; torch brings CUDA's libraries, and the host its driver.
FROM ubuntu:24.04

# g++ is what torch.compile and Triton call.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3 python3-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1001 --create-home --shell /bin/bash kvmgan \
    && install --directory --owner kvmgan /work /work/runs /work/cache
COPY --from=build /opt/kvmgan /opt/kvmgan
ENV PATH=/opt/kvmgan/bin:$PATH \
    XDG_CACHE_HOME=/work/cache
USER 1001
WORKDIR /work
ENTRYPOINT ["kvmgan"]
CMD ["--help"]
