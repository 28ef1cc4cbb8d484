"""What the agent, the control plane and the CLI share."""

import os

# gRPC has no "TLS 1.3 only" switch, but its TLS 1.2 suites can be named. An RSA-only suite cannot be agreed on, since
# every certificate here is ECDSA; TLS 1.3 has suites of its own and is not touched. gRPC reads this once, when it
# first needs TLS, so it is set before anything can have imported grpc through us.
os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384"
