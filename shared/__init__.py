"""What both halves speak: the wire's schemas, the errors, asyncio helpers and the model store."""
