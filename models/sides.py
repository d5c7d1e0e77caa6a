"""Which sides of square images an architecture takes."""

from utils import UserError


def check_multiple(arch: str, image_size: int, patch: int) -> None:
    """Refuse images that patches of ``patch`` pixels do not cover: the rest would be cut off."""
    if image_size % patch:
        below = image_size // patch * patch
        sides = f"{below} or {below + patch}" if below else str(patch)
        raise UserError(
            f"--arch {arch} cuts images of this size into patches of {patch} pixels, and"
            f" {image_size} is no multiple of {patch}; add --input_size {sides}"
        )
