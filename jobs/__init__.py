"""Entry points that a cluster runs: each calls one verb."""
