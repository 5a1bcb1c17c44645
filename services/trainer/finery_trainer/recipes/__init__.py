"""Ways of training. The only part of the trainer that imports torch, transformers and peft, in worker processes."""
