"""The viewer inside a report: NiiVue as it came, the script that drives it, and the volumes that a page carries."""
