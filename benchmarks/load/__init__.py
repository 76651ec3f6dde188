"""How a served model behaves under load: throughput against latency, and where the time goes."""
