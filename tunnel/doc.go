// Package tunnel gets packets to the blocks of other nodes: it chooses the way, plans the kernel's rows for it, and
// keeps those rows.
//
// The choice (encap.go) and the plan (plan.go) are pure. The tables of the kernel are targets of package reconcile; what
// is ours in them is told by the kernel itself: protocol number 88 on routes and rules, the device names flvxlan,
// flvxlan6, flipip and flgre, and permanent neighbour and forwarding entries on our own links. Nothing else is listed or touched.
package tunnel
