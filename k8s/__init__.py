"""Kubernetes manifests of the jobs, and the check that reads them without a cluster."""
