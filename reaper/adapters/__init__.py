"""Everything that touches the world. Siblings do not import each other."""
