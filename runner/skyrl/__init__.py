"""SkyRL: a section of the job, made into the command of the version that the image has."""
