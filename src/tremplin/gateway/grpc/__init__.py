"""The Open Inference Protocol over gRPC, as the extra ``grpc``; nothing of it is imported unless a port is set."""
