"""The machine under a run: processes, devices, files written whole, compiled programs, the supervisor."""
