"""S3-compatible stores: signed URLs, and what the control plane itself does with objects."""
