"""What does the heavy work inside a worker: merging, quantizing, checking. Only workers import it: it needs torch."""
