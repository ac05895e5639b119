"""In-place edits of a model: slicing of constants, resizing of nodes, permutation of channels."""
