"""Pools that live: images are added, moved and withdrawn while a run goes on."""
