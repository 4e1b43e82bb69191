"""Indexing: from what lies in folders, tables and catalogues to a manifest."""
