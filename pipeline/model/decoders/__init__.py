"""Decoders, one file per family: features of an encoder in, one map at a fixed stride out."""
