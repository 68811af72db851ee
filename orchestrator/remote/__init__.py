"""A sweep as a job of a Ray cluster: what is uploaded, and how to follow the job."""
