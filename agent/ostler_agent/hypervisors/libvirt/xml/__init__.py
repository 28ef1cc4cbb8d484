"""libvirt's XML from small pure parts: each module makes the elements of one subject; `domain` lists them."""
