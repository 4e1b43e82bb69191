"""An ordered map over jobs: by threads of this process, or by a Ray cluster."""
