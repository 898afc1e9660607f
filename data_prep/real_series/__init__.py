"""Real satellite series that Python packages ship as sample data: scene.yaml of each scene, its sensors, and the download."""
