"""Truth before success: what is measured on a written model before its job may succeed."""
