"""Detect reward hacking while a policy trains: signals over windows of steps, alarms, and TRL's callback for them."""
