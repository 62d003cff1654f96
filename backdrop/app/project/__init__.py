"""A project of one's own: made by `backdrop new`, run by `backdrop train`, and what came of it on one screen."""
