"""Text to token ids and back: encoding, chat templates and incremental detokenizing."""
