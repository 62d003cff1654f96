"""Stage score: tables of scores, contact sheets, provenance."""
