"""An ordered map over jobs that each read some of the data: by threads of this process, or by a cluster."""
