"""How elementwise kernels divide rows among programs."""

ELEMENTS = 1024  # of a program
NUM_WARPS = 4  # eight elements to a thread: 16 bytes of a 16-bit dtype
COLUMNS = (1024, 512, 256, 128)
FEWEST_COLUMNS = 64


def elementwise_tile(width: int) -> tuple[int, int]:
    """Return rows and columns of a program: the widest that leave at most an eighth idle."""
    for columns in COLUMNS:
        padded = -(-width // columns) * columns
        if 8 * padded <= 9 * width:
            return ELEMENTS // columns, columns
    return ELEMENTS // FEWEST_COLUMNS, FEWEST_COLUMNS
