"""What a checkpoint has to pass before it is published; every gate reads the written files back."""
