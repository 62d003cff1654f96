"""A few labels that people made: read from their tools' files, checked, and turned into what the student learns."""
