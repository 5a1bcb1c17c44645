"""Deployments: desired state in a database, engines that run for it, and a board that tells of both."""
