"""Several processes that serve one address, when one core is too little for a gateway."""
