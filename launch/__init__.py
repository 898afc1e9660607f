"""What starts the project's commands: the console command, launchers of ranks, job scripts, quickstarts. No logic lives here."""
