"""Jobs that survive: a store on SQLite, workers in processes of their own, events that can be watched from anywhere."""
