//! Brokers that die, restart and lead no more, and connections that lose answers, while a migration runs.
