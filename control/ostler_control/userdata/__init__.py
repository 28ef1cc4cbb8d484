"""User data: what a guest's cloud-init reads at boot.

Pure, bytes in and bytes out:

- `formats`: which format a document has.
- `documents`: a document as its author gave it, decoded, unpacked and split into parts.
- `merging`: a template's document and a VM's, by the template's policy, into one result.
- `variables`: declared variables and the values given at deploy.
- `seed`: the files of the NoCloud seed: user data, meta-data, network configuration, vendor data.
- `rendering`: `render`, the one answer to "what will the guest get?".
- `matrix`: the table in docs/user-data.md.

With the database:

- `registered`: documents that accounts keep under a name.
- `template_link`: what a template links, with its policy.
- `vm_user_data`: what a VM is given, and the seed that its host gets.

`keys.sealing` encrypts all of this at rest.
"""
