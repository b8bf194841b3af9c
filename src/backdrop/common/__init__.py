"""What every layer uses: errors, files here and in S3, progress, processes, devices."""
