"""What people see of the lifecycle: each part is `attach(bus, …)` in a module of its own."""
