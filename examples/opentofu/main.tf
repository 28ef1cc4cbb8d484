# A VM that OpenTofu creates and deletes through the `ostler` command, and reads through its JSON.
# The provider "external" reads; `terraform_data` is built in. Needs `ostler`, with a profile, and `jq`.

terraform {
  required_providers {
    external = {
      source = "hashicorp/external"
    }
    random = {
      source = "hashicorp/random"
    }
  }
}

variable "name" {
  type    = string
  default = "web-1"
}

# A repeated call with the same request id returns the first call's operation: no second VM is created.
resource "random_uuid" "create" {
  keepers = {
    name = var.name
  }
}

resource "terraform_data" "vm" {
  input = {
    name    = var.name
    request = random_uuid.create.result
  }
  triggers_replace = [var.name]

  provisioner "local-exec" {
    command = "ostler vm create ${self.input.name} --template debian-13 --offering small --request-id ${self.input.request}"
  }

  provisioner "local-exec" {
    when    = destroy
    command = "ostler vm delete ${self.input.name} --yes"
  }
}

data "external" "vm" {
  program    = ["${path.module}/ostler-vm"]
  query      = { name = var.name }
  depends_on = [terraform_data.vm]
}

output "host" {
  value = data.external.vm.result.host_name
}

output "addresses" {
  value = flatten([for nic in jsondecode(data.external.vm.result.nics) : nic.addresses])
}
