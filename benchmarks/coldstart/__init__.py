"""From a process that starts to requests as fast as they get: cold start, warmup, switching, idling."""
