"""Models and data sets of a job, brought to the cluster's cache before the job waits in the queue."""
