"""What formats have in common: of tools that have tasks, and of files that say things of images."""
