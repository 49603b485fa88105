"""Edits that try to spoil a score, honest edits beside them, and what plays both."""
