"""Where viewers' connections live: on the service's own event loop, or in a process of theirs."""
