"""Maps before a method, one file each; `embstore.registry.transform_names` lists them."""
