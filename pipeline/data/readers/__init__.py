"""Readers: one small file for each family of formats, all with the same few methods (`protocol.Reader`)."""
