"""What a material is: structures, prototypes, hull, files of them. No torch."""
