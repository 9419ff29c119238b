"""Links to the controller. Each implementation is imported only when it is used."""
