"""The controller: fits models to devices and keeps the fleet right."""
