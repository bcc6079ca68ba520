"""Parts of a decoder on a GPU."""
