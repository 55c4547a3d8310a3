"""No kernel's: what must not be taken for the sums of an image (N, C)."""


def reference(image):
    return 2 * image.float().sum(0)
