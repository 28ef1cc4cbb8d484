"""Generates libvirt's XML: each module creates the elements of one subject; `domain` combines them."""
